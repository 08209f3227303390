/** A chat client that never loses a message. An ES module without dependencies, for browsers and Node. */
export { connect, EclipseChat } from "./client.ts";
export type { Events, Failure, Grant, JoinOptions, Message, OnlineUser, Options, Outgoing, ReadPosition, Role, SavedMessage, Sender, State, TokenFunction } from "./types.ts";
