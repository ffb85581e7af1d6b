"""How our programs start other ones, and how they leave."""
