"""Trains a model, or resumes one, from a checkout: the program is lm/train.py."""

from lm.train import start

if __name__ == "__main__":
    start()
