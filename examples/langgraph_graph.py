"""A LangGraph graph, served as it is. It asks before it books, which pauses the run until somebody answers.

pip install 'innkeeper[langgraph]'
innkeeper serve examples/langgraph_graph.py

curl localhost:8000/chat -H 'content-type: application/json' -d '{"input": "a table for two"}'
curl localhost:8000/runs/RUN_ID/resume -H 'content-type: application/json' \\
  -d '{"answers": [{"id": "ACTION_ID", "decision": "answer", "value": "19:00"}]}'
"""

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from innkeeper import register_agent


class Booking(MessagesState):
    wish: str
    time: str


def understand(state: Booking) -> dict:
    return {"wish": str(state["messages"][-1].text)}


def ask(state: Booking) -> dict:
    return {"time": interrupt(f"At what time would you like {state['wish']}?")}


def book(state: Booking) -> dict:
    return {"messages": [AIMessage(f"Booked {state['wish']} at {state['time']}.")]}


graph = StateGraph(Booking)
graph.add_node("understand", understand)
graph.add_node("ask", ask)
graph.add_node("book", book)
graph.add_edge(START, "understand")
graph.add_edge("understand", "ask")
graph.add_edge("ask", "book")
graph.add_edge("book", END)

register_agent("booking", graph.compile())
