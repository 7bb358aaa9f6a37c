"""Rating answers with another model, apart from any request: what is asked, what is read, what it may cost. Pure."""
