"""OpenAI's Responses and Conversations, on the same runs and sessions as everything else."""
