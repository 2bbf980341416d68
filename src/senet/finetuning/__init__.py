"""Fine-tuning: from a folder of pictures and a network with weights to a run, with settings chosen for both."""
