"""TorchServe's workflows: several models and functions, answering one request together."""
