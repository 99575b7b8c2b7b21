"""Save ONNX files of a folder as one MLflow model, in the servers' own environment: save_mlflow.py FOLDER MODEL."""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import onnxruntime


class OnnxFiles(mlflow.pyfunc.PythonModel):
    """Inputs by the name of the model they are for; without a name, for the first one."""

    def load_context(self, context) -> None:
        files = sorted(Path(context.artifacts["files"]).glob("*.onnx"))
        self.sessions = {file.stem: onnxruntime.InferenceSession(str(file)) for file in files}

    def predict(self, context, model_input, params=None):
        name, batch = (
            next(iter(model_input.items())) if isinstance(model_input, dict) else (min(self.sessions), model_input)
        )
        session = self.sessions[name]
        (answers,) = session.run(None, {session.get_inputs()[0].name: np.asarray(batch, "float32")})
        return answers


if __name__ == "__main__":
    folder, model = sys.argv[1:]
    mlflow.pyfunc.save_model(model, python_model=OnnxFiles(), artifacts={"files": folder}, pip_requirements=[])
