"""`replacing` under its former name; new code imports it from `atomic`."""

from atomic import replacing as replacing
