"""What runs at the coordinator: a Flower ServerApp that averages what the sites send."""
