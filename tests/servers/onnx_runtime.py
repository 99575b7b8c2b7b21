"""An MLServer runtime for ONNX files, run in the servers' own environment."""

from __future__ import annotations

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxRuntime(MLModel):
    async def load(self) -> bool:
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (given,) = payload.inputs
        batch = NumpyCodec.decode_input(given).astype("float32")
        (answers,) = self.session.run(None, {self.session.get_inputs()[0].name: batch})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("answers", answers)])
