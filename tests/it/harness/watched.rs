//! A scripted engine whose calls a test hears of, and can make go wrong.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sluicegate::engine::scripted::ScriptedEngine;
use sluicegate::engine::text::TextModel;
use sluicegate::engine::{
    Engine, EngineError, EngineInfo, EngineStats, Finished, Generation, Prepared, Prompt, PromptError, Sink,
};

pub struct Watched {
    pub engine: ScriptedEngine,
    /// Is called before a prompt is prepared.
    pub prepares: Box<dyn Fn(&Prompt) + Send + Sync>,
    pub text: Option<TextModel>,
    /// Is called once the engine is unloaded.
    pub unloaded: Box<dyn Fn() + Send + Sync>,
}

impl Watched {
    pub fn new(engine: ScriptedEngine) -> Self {
        Self { engine, prepares: Box::new(|_| ()), text: None, unloaded: Box::new(|| ()) }
    }
}

impl Engine for Watched {
    fn info(&self) -> &EngineInfo {
        self.engine.info()
    }

    fn text(&self) -> Option<&TextModel> {
        self.text.as_ref()
    }

    fn prepare(&self, prompt: &Arc<Prompt>) -> Result<Prepared, PromptError> {
        (self.prepares)(prompt);
        match &self.text {
            Some(text) => text.tokenize(prompt).map(Prepared::Ids),
            None => self.engine.prepare(prompt),
        }
    }

    fn generate<'a>(
        &'a self,
        generation: Generation,
        sink: &'a mut dyn Sink,
    ) -> BoxFuture<'a, Result<Finished, EngineError>> {
        self.engine.generate(generation, sink)
    }

    fn stats(&self) -> EngineStats {
        self.engine.stats()
    }

    fn probe(&self, prompt_tokens: u32) -> BoxFuture<'_, Result<Finished, EngineError>> {
        self.engine.probe(prompt_tokens)
    }

    fn unload(&self) -> BoxFuture<'_, ()> {
        async {
            self.engine.unload().await;
            (self.unloaded)();
        }
        .boxed()
    }
}
