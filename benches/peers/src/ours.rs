//! streampool itself.

use std::path::Path;

use streampool::{Device, HostTensor, Input, Model, Result};

use crate::engine::{Call, Engine};

pub(crate) struct Ours {
    model: Model,
}

impl Ours {
    /// `cores` that one call may use.
    pub(crate) fn load(path: &Path, cores: usize) -> Result<Self> {
        Ok(Self { model: Model::load(&Device::builder("cpu").cores(cores).open()?, path)? })
    }
}

impl Engine for Ours {
    fn name(&self) -> &'static str {
        "streampool"
    }

    fn caller<'a>(&'a self, inputs: &'a [(String, HostTensor)]) -> Result<Call<'a>> {
        let inputs: Vec<(&str, Input<'a>)> = inputs.iter().map(|(n, t)| (n.as_str(), t.into())).collect();
        Ok(Box::new(move || self.model.run(&inputs).map(drop)))
    }

    fn first_output(&self, inputs: &[(String, HostTensor)]) -> Result<Vec<f32>> {
        let inputs: Vec<(&str, Input<'_>)> = inputs.iter().map(|(n, t)| (n.as_str(), t.into())).collect();
        self.model.run(&inputs)?[0].to_vec::<f32>()
    }
}
