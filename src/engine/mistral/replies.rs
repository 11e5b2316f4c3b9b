//! What the engine says about a sequence. Its texts are not used; its errors and reasons are.

use mistralrs::Response;
use tokio::sync::mpsc;

use super::first_line;

/// The engine's response channel, emptied as it fills.
pub struct Replies {
    responses: mpsc::Receiver<Response>,
    word: Option<Word>,
}

/// The last word of the engine on a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It ended, for the engine's own reason (`stop`, `length`, …).
    Finished(String),
    /// It was refused before it began.
    Refused(String),
    /// The engine failed.
    Failed(String),
}

impl Replies {
    /// Room for `chunks`: then the engine never waits for us. Memory is taken as it is used.
    pub fn channel(chunks: usize) -> (mpsc::Sender<Response>, Self) {
        let (sender, responses) = mpsc::channel(chunks);
        (sender, Self { responses, word: None })
    }

    /// Empties the channel. The first failure or refusal stays the last word.
    pub fn drain(&mut self) -> Option<&Word> {
        while let Ok(response) = self.responses.try_recv() {
            if let Some(word) = word(response)
                && !matches!(self.word, Some(Word::Refused(_) | Word::Failed(_)))
            {
                self.word = Some(word);
            }
        }
        self.word.as_ref()
    }

    /// Hangs up: the engine ends the sequence when it has its next chunk to send.
    pub fn close(&mut self) {
        self.responses.close();
    }
}

fn word(response: Response) -> Option<Word> {
    match response {
        Response::CompletionChunk(chunk) => {
            chunk.choices.into_iter().find_map(|choice| choice.finish_reason).map(Word::Finished)
        }
        Response::ValidationError(error) => Some(Word::Refused(first_line(&error.to_string()).to_owned())),
        Response::InternalError(error) => Some(Word::Failed(first_line(&error.to_string()).to_owned())),
        // The second part repeats the text, which is not for logs.
        Response::CompletionModelError(error, _) | Response::ModelError(error, _) => {
            Some(Word::Failed(first_line(&error).to_owned()))
        }
        _ => None,
    }
}
