"""What leaves a page: tables (`tables`), recorded pictures (`frames`), and a page of its own (`standalone`)."""
