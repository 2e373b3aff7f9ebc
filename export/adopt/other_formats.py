"""Files of other formats that people give in the place of an ONNX file: which one it is, and what to do."""

import zipfile
from io import BytesIO

_EXPORT = "export the module to ONNX (torch.onnx.export), or give the module itself to `python -m export module`"
_SCRIPT = f"a TorchScript file (torch.jit.save), not an ONNX file: {_EXPORT}"
_PROGRAM = (
    "a program of torch.export.save, not an ONNX file: load it and write it by torch.onnx.export(..., dynamo=True)"
)
_PICKLE = (
    "a pickle, as torch.save writes weights and modules, not an ONNX file; it is not loaded, because that would run "
    f"code from it: {_EXPORT}"
)
_WEIGHTS = (
    "a .safetensors file, which holds weights and no graph: for a checkpoint of this project use `python -m export`, "
    "for a module of yours `python -m export module --weights`"
)
_HEADS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes models, not an ONNX file: convert it by tf2onnx",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: fetch it by `git lfs pull`",
    b"<!DOCTYPE html": "a web page, not an ONNX file: download the file itself",
    b"<?xml": "an XML file, as OpenVINO writes networks, not an ONNX file: give the ONNX file that it was made from",
}
_FLATBUFFERS = {
    b"ORTM": "in ONNX Runtime's ORT format (.ort), which is no ONNX graph: give the .onnx file that it was made from",
    b"TFL3": "a TensorFlow Lite file, not an ONNX file: convert it by tf2onnx (--tflite)",
}


def name_other_format(data: bytes) -> str:
    """Return what a file is, and what to do, if it is of another known format; nothing otherwise."""
    if data[4:8] in _FLATBUFFERS:
        return _FLATBUFFERS[data[4:8]]
    for head, said in _HEADS.items():
        if data[: len(head)].lower() == head.lower():
            return said
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _PICKLE
    if data[:4] == b"PK\x03\x04":
        return _name_archive(data)
    if data[8:9] == b"{" and 8 + int.from_bytes(data[:8], "little") <= len(data):
        return _WEIGHTS
    return ""


def _name_archive(data: bytes) -> str:
    try:
        names = zipfile.ZipFile(BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return "a damaged zip archive, not an ONNX file"
    if any(
        name.endswith(("serialized_exported_program.json", "models/model.json", "archive_format")) for name in names
    ):
        return _PROGRAM
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        return _SCRIPT
    if any(name.endswith("data.pkl") for name in names):
        return _PICKLE
    if any(name.endswith(".weights.h5") for name in names):
        return "a Keras file, not an ONNX file: convert it by tf2onnx, or by model.export(..., format='onnx')"
    return "a zip archive, not an ONNX file: give the .onnx file inside it"
