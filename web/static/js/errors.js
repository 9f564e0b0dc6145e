/** What can go wrong with a document. `code` names the sentence that the page shows. */

export class EnvelopeError extends Error {
  /** @param {string} code fragment | version | fields | parameters | cipher | rounds | length | incomplete | size | wrong-key */
  constructor(code) {
    super(code);
    this.name = "EnvelopeError";
    this.code = code;
  }
}
