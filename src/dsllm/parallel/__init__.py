"""How a run is spread over processes: the model is written for one device and is cut from outside."""
