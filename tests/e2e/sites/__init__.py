"""Real sites, built with packages that the tests do not need otherwise: ``make sites`` runs them."""
