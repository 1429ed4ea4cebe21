"""What is loaded, trained and saved of policy and critic."""
