"""What runs at a hospital: a Flower ClientApp that trains on one prepared site."""
