"""The moments that moments.yaml names: plain NumPy, one row of contributions for each row of the data."""

import numpy as np


def wage_and_spread(theta, rows):
    """Residuals of log wages times instruments, and their squares less their variance."""
    const, school, exper, sigma = theta
    e = rows["lwage"] - const - school * rows["school"] - exper * rows["exper"]
    z = np.stack([np.ones(e.shape[0]), rows["exper"], rows["distance"], rows["mother"]], axis=1)
    return np.concatenate([z * e[:, None], (e**2 - sigma**2)[:, None]], axis=1)


def wage_residual(theta, rows):
    """Wages less an exponential mean, in parts of that mean: what residuals.yaml multiplies by its instruments."""
    school, exper, const = theta
    return rows["wage"] * np.exp(-school * rows["school"] - exper * rows["exper"] - const) - 1.0
