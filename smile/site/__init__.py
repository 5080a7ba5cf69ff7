"""A prepared site on disk: `prepare` makes it, `store` opens it, `check` and `contact_sheet` look at it."""
