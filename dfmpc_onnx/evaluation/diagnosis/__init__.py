"""Why a quantized network loses what it loses: which layer or activation it is, and what is wrong with it."""
