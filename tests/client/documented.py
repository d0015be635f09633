"""The documented examples of the SDK, word for word; `tests.client.test_documented_examples` plays them."""

# fmt: off
THE_QUICK_START = '''
from chatserver_sdk import ChatServerClient, Message, MessageRole

# Create client with API key
client = ChatServerClient(api_key="your-api-key", base_url="http://localhost:3284")

# List available models
models = client.list_models()
print(f"Available models: {[model.id for model in models.data]}")

# Create chat completion
messages = [
    Message(role=MessageRole.SYSTEM, content="You are a helpful assistant."),
    Message(role=MessageRole.USER, content="Write a hello world function in Python.")
]

response = client.create_completion(
    model="claude-3-haiku",
    messages=messages
)

print(f"Assistant: {response.choices[0].message.content}")
print(f"Tokens used: {response.usage.total_tokens}")

client.close()
'''

THE_CONTEXT_MANAGER = '''
from chatserver_sdk import ChatServerClient

with ChatServerClient(api_key="your-api-key") as client:
    response = client.create_completion(
        model="claude-3-haiku",
        messages=[{"role": "user", "content": "Hello!"}]
    )
    print(response.choices[0].message.content)
    # Client automatically closed here
'''

STREAMING = '''
from chatserver_sdk import ChatServerClient

client = ChatServerClient(api_key="your-api-key")

messages = [{"role": "user", "content": "Tell me a story"}]

print("Streaming response:")
stream = client.create_completion(
    model="claude-3-haiku",
    messages=messages,
    stream=True
)

for chunk in stream:
    print(chunk, end='', flush=True)

print("\\nSession fingerprint:", stream.metadata.get("system_fingerprint"))

client.close()
'''

SEVERAL_TURNS = '''
from chatserver_sdk import ChatServerClient, Message, MessageRole

client = ChatServerClient(api_key="your-api-key")

conversation = [
    Message(role=MessageRole.USER, content="What is recursion?")
]

# First response
response1 = client.create_completion(
    model="claude-3-haiku",
    messages=conversation
)

if response1.choices:
    # Add assistant response to conversation
    conversation.append(response1.choices[0].message)

    # Follow-up question
    conversation.append(
        Message(role=MessageRole.USER, content="Can you give me an example?")
    )

    # Get follow-up response
    response2 = client.create_completion(
        model="claude-3-haiku",
        messages=conversation
    )

    print(response2.choices[0].message.content)

client.close()
'''

SESSION_HISTORY = '''
from chatserver_sdk import ChatServerClient, Message, MessageRole

client = ChatServerClient(api_key="your-api-key")
user_id = "00000000-0000-0000-0000-000000000001"  # Supabase profile ID

try:
    # Start a new session; passing user ensures history is recorded
    first = client.create_completion(
        model="claude-3-haiku",
        messages=[Message(role=MessageRole.USER, content="Draft a project update email.")],
        user=user_id,
    )

    session_id = first.system_fingerprint
    if not session_id:
        raise RuntimeError("ChatServer did not return a session fingerprint")

    # Continue in streaming mode using the same session id
    stream = client.create_completion(
        model="claude-3-haiku",
        messages=[{"role": "user", "content": "Add a bullet list of risks."}],
        stream=True,
        user=user_id,
        session_id=session_id,
    )

    for delta in stream:
        print(delta, end="", flush=True)

    print("\\nStream recorded under:", stream.metadata.get("system_fingerprint"))

    # Query stored history
    sessions = client.list_sessions(user_id)
    latest = sessions.sessions[0] if sessions.sessions else None
    if latest:
        detail = client.get_session(latest.id, user_id=user_id)
        print(f"Loaded {len(detail.messages)} stored messages")
finally:
    client.close()
'''

ADMINISTRATION = '''
from chatserver_sdk import ChatServerClient

client = ChatServerClient(api_key="admin-api-key")

# Get platform statistics
stats = client.get_platform_stats()
print(f"Total users: {stats.total_users}")
print(f"Active users: {stats.active_users}")
print(f"Total requests: {stats.total_requests}")

# List admins
admins = client.list_admins()
print(f"Platform admins: {admins['count']}")

# Get audit log
audit_log = client.get_audit_log(limit=20)
for entry in audit_log.entries:
    print(f"[{entry.timestamp}] {entry.action}: {entry.resource}")

client.close()
'''

ERROR_HANDLING = '''
from chatserver_sdk import ChatServerClient
from chatserver_sdk.exceptions import BadRequestError, UnauthorizedError

client = ChatServerClient(api_key="your-api-key")

try:
    response = client.create_completion(
        model="",  # Invalid model
        messages=[]
    )
except BadRequestError as e:
    print(f"Bad request: {e.message}")
    print(f"Status code: {e.status_code}")
except UnauthorizedError as e:
    print(f"Unauthorized: {e.message}")
except Exception as e:
    print(f"Other error: {e}")

client.close()
'''

MESSAGE_FORMATS = '''
# Using Message objects (recommended)
messages = [
    Message(role=MessageRole.SYSTEM, content="You are helpful."),
    Message(role=MessageRole.USER, content="Hello!")
]

# Using dictionaries
messages = [
    {"role": "system", "content": "You are helpful."},
    {"role": "user", "content": "Hello!"}
]

# Simple strings (converted to user messages)
messages = [
    "Hello!",
    "How are you?"
]
'''
