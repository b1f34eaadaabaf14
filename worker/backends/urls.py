"""URLs of providers, as the openai package can use them."""

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit, urlunsplit

if TYPE_CHECKING:
    import openai


def with_query_behind_path(client: "openai.OpenAI") -> "openai.OpenAI":
    """Return a client whose URL may have a query, such as Azure's `https://host/openai/deployments/name?api-version=…`.

    The package joins the path of a request at the end of the text, behind the query.
    """
    url = urlsplit(str(client.base_url))
    if not url.query:
        return client
    query = dict(
        parse_qsl(url.query.removesuffix("/"), keep_blank_values=True)
    )  # the package ends it in a slash
    return client.with_options(base_url=urlunsplit(url._replace(query="", fragment="")), default_query=query)
