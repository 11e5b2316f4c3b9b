#!/bin/sh
# The quick-start of OpenAI's API by curl, with another base URL, key and model.
#
#     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none sh examples/quickstarts/chat.sh

curl --fail --silent --show-error "$OPENAI_BASE_URL/chat/completions" \
  -H "Content-Type: application/json" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -d '{
    "model": "builtin",
    "messages": [
      {"role": "developer", "content": "You are a helpful assistant."},
      {"role": "user", "content": "What is Sluicegate?"}
    ]
  }'
