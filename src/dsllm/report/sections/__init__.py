"""The page's sections: a module for each family of stages."""
