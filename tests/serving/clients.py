"""Where the clients of others are: `make clients` puts them there."""

import sys

# An environment of its own: old clients bring old protos, which no environment
# can hold beside TensorFlow's.
CLIENTS_PYTHON = f"{sys.prefix}/clients/bin/python"
KSERVE_PYTHON = f"{sys.prefix}/clients/kserve/bin/python"
NODE = f"{sys.prefix}/clients/bin/node"
NODE_MODULES = f"{sys.prefix}/clients/node_modules"
