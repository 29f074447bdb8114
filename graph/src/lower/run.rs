//! Walking a graph's nodes.

use streampool_core::Error;

use super::{LResult, Lower, MAX_NODES, Stop, Value, View};
use crate::ir::{Graph, Node, ValueId};
use crate::ops;

impl Lower<'_> {
    /// Lowers the constants and nodes of a graph whose inputs are set.
    pub(crate) fn graph(&mut self, graph: &Graph) -> LResult<()> {
        self.depth += 1;
        for (id, constant) in &graph.constants {
            let view = self.constant(constant.clone(), true);
            self.bind(*id, Value::Tensor(view));
        }
        for node in &graph.nodes {
            self.lowered += 1;
            if self.lowered > MAX_NODES {
                return Err(Error::unsupported(format!(
                    "the model unrolls to more than {MAX_NODES} nodes; run its loops with fewer iterations"
                ))
                .into());
            }
            self.node(node)?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn node(&mut self, node: &Node) -> LResult<()> {
        let outer = std::mem::replace(&mut self.name, node.name.clone());
        let handler = ops::find(&node.domain, &node.op_type, node.version)
            .ok_or_else(|| Error::unsupported(format!("{} is not supported", node.label())))?;
        let result = handler(self, node).map_err(|stop| match stop {
            // The innermost node is named; the bodies around it add nothing.
            Stop::Error(e) if e.to_string().starts_with("node ") => Stop::Error(e),
            stop => stop.context(format!("node {}", node.label())),
        });
        self.name = outer;
        result
    }

    pub(crate) fn bind(&mut self, id: ValueId, value: Value) {
        self.values[id as usize] = Some(value);
    }

    /// What a value is. Import made sure that it is made before it is read.
    pub(crate) fn value(&self, id: ValueId) -> LResult<Value> {
        self.values[id as usize]
            .clone()
            .ok_or_else(|| Stop::Error(Error::internal(format!("value {id} is read before it is made"))))
    }

    pub(crate) fn tensor(&self, id: ValueId) -> LResult<View> {
        match self.value(id)? {
            Value::Tensor(v) => Ok(v),
            Value::Sequence(_) => {
                Err(Error::invalid_model("a tensor is needed, the value is a sequence").into())
            }
            Value::Nothing => Err(Error::invalid_model("a tensor is needed, the optional is empty").into()),
        }
    }

    /// Input `i` of a node, which must be given.
    pub(crate) fn input(&self, node: &Node, i: usize) -> LResult<View> {
        match node.inputs.get(i) {
            Some(Some(id)) => self.tensor(*id),
            _ => Err(Error::invalid_model(format!("input {i} is missing")).into()),
        }
    }

    /// Input `i` of a node, if it is given.
    pub(crate) fn optional(&self, node: &Node, i: usize) -> LResult<Option<View>> {
        match node.inputs.get(i) {
            Some(Some(id)) => Ok(Some(self.tensor(*id)?)),
            _ => Ok(None),
        }
    }

    /// All inputs, none left out.
    pub(crate) fn inputs(&self, node: &Node) -> LResult<Vec<View>> {
        (0..node.inputs.len()).map(|i| self.input(node, i)).collect()
    }

    /// Sets output `i` of a node, if it is wanted.
    pub(crate) fn set(&mut self, node: &Node, i: usize, view: View) -> LResult<()> {
        self.set_value(node, i, Value::Tensor(view))
    }

    pub(crate) fn set_value(&mut self, node: &Node, i: usize, value: Value) -> LResult<()> {
        if let Some(Some(id)) = node.outputs.get(i) {
            self.bind(*id, value);
        }
        Ok(())
    }
}

impl Lower<'_> {
    /// Counts an iteration of a loop, so that endless loops with empty bodies end too.
    pub(crate) fn count_iteration(&mut self) -> LResult<()> {
        self.lowered += 1;
        if self.lowered > MAX_NODES {
            return Err(Error::unsupported(format!(
                "the model unrolls to more than {MAX_NODES} nodes; run its loops with fewer iterations"
            ))
            .into());
        }
        Ok(())
    }

    /// Whether a view's value is known at plan time.
    pub(crate) fn is_known(&self, v: &View) -> bool {
        self.lir.constant(v).is_some()
    }
}
