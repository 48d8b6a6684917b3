"""How tightly generated Python text binds, loosest first."""

CONDITIONAL, COMPARE, SUM, PRODUCT, UNARY, POWER, ATOM = range(7)
