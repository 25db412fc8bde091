"""Where trainings run: in processes of this machine, in this process, or wherever a part of one's own takes them."""
