"""TorchServe's launcher for language models, which has no counterpart here."""

from flambeau.torchserve.unavailable import llm_launcher as main

__all__ = ["main"]

if __name__ == "__main__":
    main()
