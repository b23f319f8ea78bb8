"""The subcommand `status`: a picture of a database at one moment, and its drawing."""
