"""What pre-training, fine-tuning and DPO share: batches, losses, schedule, optimizer, checkpoints, loop."""
