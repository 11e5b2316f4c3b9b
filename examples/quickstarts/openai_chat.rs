//! The quick-start of async-openai, with another base URL, key and model.
//!
//!     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none cargo run --example openai_chat

use std::error::Error;

use async_openai::Client;
use async_openai::types::chat::{
    ChatCompletionRequestDeveloperMessageArgs, ChatCompletionRequestUserMessageArgs, CreateChatCompletionRequestArgs,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::new();

    let request = CreateChatCompletionRequestArgs::default()
        .model("builtin")
        .messages([
            ChatCompletionRequestDeveloperMessageArgs::default()
                .content("You are a helpful assistant.")
                .build()?
                .into(),
            ChatCompletionRequestUserMessageArgs::default().content("What is Sluicegate?").build()?.into(),
        ])
        .build()?;

    let response = client.chat().create(request).await?;
    for choice in response.choices {
        println!("{}", choice.message.content.unwrap_or_default());
    }
    Ok(())
}
