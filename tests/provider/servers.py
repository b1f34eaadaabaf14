"""Error bodies in the shapes of embedding servers, after public bug reports; some words are ours, none is recorded.

Status and body; a string is sent as it is, with the content type of a web page if it begins with `<`.
"""

from typing import Any

Answer = tuple[int, Any]

TOO_LONG: dict[str, Answer] = {
    "OpenAI": (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 8192 tokens, however you requested 9000 tokens "
                "(9000 in your prompt; 0 for the completion). Please reduce your prompt; or completion length.",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
        },
    ),
    "OpenAI, newer": (
        400,
        {
            "error": {
                "message": "Invalid 'input[0]': maximum input length is 8192 tokens.",
                "type": "invalid_request_error",
                "param": "input[0]",
                "code": None,
            }
        },
    ),
    "Gemini": (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "the input token count is 2521 but the model only supports up to 2048",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    "NIM": (
        400,
        {
            "object": "error",
            "message": "Input length 548 exceeds maximum allowed token size 512",
            "detail": {},
            "type": "invalid_request_error",
        },
    ),
    "vLLM": (
        400,
        {
            "object": "error",
            "message": "The decoder prompt (length 600) is longer than the maximum model length of 512. Make sure that "
            "`max_model_len` is no smaller than the number of text tokens.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    "TEI": (
        413,
        {
            "message": "Input validation error: `inputs` must have less than 512 tokens. Given: 600",
            "code": 413,
            "type": "Validation",
        },
    ),
    "Ollama": (
        400,
        {
            "error": {
                "message": "the input length exceeds the context length",
                "type": "api_error",
                "param": None,
                "code": None,
            }
        },
    ),
    "llama.cpp": (
        500,
        {
            "error": {
                "code": 500,
                "message": "input (600 tokens) is too large to process. increase the physical batch size "
                "(current batch size: 512)",
                "type": "server_error",
            }
        },
    ),
    "Mistral": (
        400,
        {
            "object": "error",
            "message": {
                "detail": [{"type": "value_error", "loc": ["body", "input", 0], "msg": "8192 is all"}]
            },
            "type": "invalid_request_error",
            "param": None,
            "code": "3210",
        },
    ),
    "Cohere": (
        400,
        {"id": "7f", "message": "invalid request: text at position 0 has 600 units and the cap is 512"},
    ),
    "Voyage": (
        400,
        {"detail": "Request to model 'voyage-3' failed. An example in your batch has 600 of 512."},
    ),
    "LiteLLM": (
        400,
        {
            "error": {
                "message": "litellm.BadRequestError: OpenAIException - Error code: 400 - the text does not fit",
                "type": None,
                "param": None,
                "code": "400",
            }
        },
    ),
    "Hugging Face": (422, {"error": ["Error in `inputs`: the sequence is beyond 512 positions"]}),
    "DashScope": (
        400,
        {
            "error": {
                "message": "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 512]",
                "type": "InvalidParameter",
                "param": None,
                "code": "InvalidParameter",
            },
            "request_id": "d0722c3e-ee3f-4728-8c6a-b3af05a4ac4b",
        },
    ),
    "a sentence": (400, '"no"'),
    "a web page": (
        400,
        "<!DOCTYPE html><html><head><title>400 Bad Request</title></head><body>no</body></html>",
    ),
}

TOO_MANY: dict[str, Answer] = {
    "OpenAI": (
        400,
        {
            "error": {
                "message": "Invalid 'input': array too long. Expected an array with maximum length 10.",
                "type": "invalid_request_error",
                "param": "input",
                "code": "array_above_max_length",
            }
        },
    ),
    "Azure": (
        400,
        {
            "error": {
                "message": "Too many inputs. The max number of inputs is 10. We hope to increase the number of inputs "
                "per request soon.",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
        },
    ),
    "Gemini": (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "* BatchEmbedContentsRequest.requests: at most 10 requests can be in one batch\n",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    "DashScope": (
        400,
        {
            "error": {
                "message": "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should "
                "not be larger than 10.: input.contents",
                "type": "InvalidParameter",
                "param": None,
                "code": "InvalidParameter",
            }
        },
    ),
    "TEI": (422, {"error": "batch size 31 > maximum allowed batch size 10", "error_type": "Validation"}),
    "Cohere": (400, {"message": "invalid request: total number of texts must be at most 10, received 31"}),
    "Mistral": (
        400,
        {
            "object": "error",
            "message": "Too many inputs in request, split into more batches.",
            "type": "invalid_request_invalid_args",
            "param": None,
            "code": "3210",
        },
    ),
    "SiliconFlow": (
        413,
        {"code": 20042, "message": "input batch size 31 > maximum allowed 10", "data": None},
    ),
    "other words": (400, {"message": "ten at a time, please"}),
}

NO_KEY: dict[str, Answer] = {
    "OpenAI": (
        401,
        {
            "error": {
                "message": "Incorrect API key provided: none.",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_api_key",
            }
        },
    ),
    "Azure": (
        401,
        {
            "statusCode": 401,
            "message": "Access denied due to invalid subscription key or wrong API endpoint.",
        },
    ),
    "Gemini": (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "API key not valid. Please pass a valid API key.",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    "Gemini, without one": (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "Missing or invalid Authorization header.",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    "Mistral": (401, {"detail": "Unauthorized"}),
    "Cohere": (401, {"id": "7f", "message": "invalid api token"}),
    "vLLM": (401, {"error": "Unauthorized"}),
    "SiliconFlow": (401, '"Invalid token"'),
    "Cloudflare": (
        403,
        {"result": None, "success": False, "errors": [{"code": 10000, "message": "Authentication error"}]},
    ),
    "a gateway, with status 200": (
        200,
        {"error": {"message": "Invalid API key", "type": "auth", "code": "401"}},
    ),
}
