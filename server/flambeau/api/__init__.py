"""What is spoken over HTTP, one file per audience; `app.py` puts them together per listener."""
