"""From texts and chats to tokens, and which of them are the policy's."""
