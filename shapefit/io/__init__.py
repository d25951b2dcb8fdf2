"""Files <-> our types. The only code that touches disk formats and foreign frames."""
