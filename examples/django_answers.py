"""Django: stream answers to the browser, under WSGI and ASGI.

Copy this file, answer_stream.py and answers.html into an app of your site, and include its `urlpatterns`. The guide is
docs/how-to/streaming.md.
"""

import json
from pathlib import Path
from uuid import UUID

from answer_stream import HEADERS, server_sent, server_sent_async
from celery import current_app
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_POST
from kombu.exceptions import OperationalError


@require_POST
def ask_question(request: HttpRequest) -> JsonResponse:
    """Send a question, and return at once. The browser reads the answer at /answers/<task>."""
    kwargs = {"question": json.loads(request.body)["question"], "stream": True}
    try:
        task = current_app.send_task(
            "tasks.chat", queue="vector_index.chat", kwargs=kwargs, ignore_result=True
        )
    except OperationalError:
        return JsonResponse({"error": "nothing was sent, try again later"}, status=503)
    return JsonResponse({"task": str(task.id)}, status=202)


@require_GET
def stream_answer(request: HttpRequest, task: UUID) -> StreamingHttpResponse:
    """Stream an answer. Any number of readers may come, late or again."""
    stream = server_sent_async if isinstance(request, ASGIRequest) else server_sent
    sent = stream(str(task), request.headers.get("Last-Event-ID"), current_app.control.revoke)
    return StreamingHttpResponse(sent, content_type="text/event-stream", headers=HEADERS)


@require_POST
def stop_answer(request: HttpRequest, task: UUID) -> HttpResponse:
    """Stop an answer: the worker closes the request to the provider."""
    current_app.control.revoke(str(task))
    return HttpResponse(status=204)


@ensure_csrf_cookie
def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse((Path(__file__).parent / "answers.html").read_text(encoding="utf-8"))


urlpatterns = [
    path("", page),
    path("answers", ask_question),
    path("answers/<uuid:task>", stream_answer),
    path("answers/<uuid:task>/stop", stop_answer),
]
