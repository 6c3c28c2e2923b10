"""References to models, the files behind them, and what their headers say. Loads no weights and no native code."""
