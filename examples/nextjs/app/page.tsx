import { beAgent, beCustomer } from "./actions";

export default function Page() {
  return (
    <>
      <h1>Who are you?</h1>
      <p>Be the customer here and the agent in a private window or another browser, which has its own cookies.</p>
      <div className="choices">
        <form action={beCustomer}>
          <button>I am the customer</button>
          <p>A chat page written in React with the hook useWebSocketChat.</p>
        </form>
        <form action={beAgent}>
          <button>I am the agent</button>
          <p>A page with the widget: one element in JSX.</p>
        </form>
      </div>
    </>
  );
}
