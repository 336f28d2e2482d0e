"""The models: pure functions of their parameters. An answer (`lm/answers`) builds the model that it needs."""
