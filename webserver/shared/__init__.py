"""What web processes share through Redis, when there is one: nothing that the database does not know better."""
