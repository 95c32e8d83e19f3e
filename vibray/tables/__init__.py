"""Finished folders opened: what training reads of features, what decisions and reports read of scores."""
