// HTTP questions. An error says what, where and what to do; it is shown as it is.

export class ApiError extends Error {
  constructor(status, body) {
    super(body.what ? `${body.what}. ${body.what_to_do}.` : `the gateway answered ${status}`);
    this.code = body.error;
    this.status = status;
  }
}

/** GET /v1/<path> with parameters; those that are undefined are left out. */
export async function ask(path, parameters = {}, signal = undefined) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined) query.set(name, value);
  }
  const text = query.toString();
  const answer = await fetch(`/v1/${path}${text ? "?" + text : ""}`, { signal, headers: { Accept: "application/json" } });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new ApiError(answer.status, body);
  return body;
}
