"""Generates text from a trained model, from a checkout: the program is lm/sample.py."""

from lm.sample import start

if __name__ == "__main__":
    start()
