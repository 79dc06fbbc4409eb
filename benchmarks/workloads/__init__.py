"""What servers are asked to do: models, request bodies, and how peers would serve them."""
