"""start SOCKET NAMESPACE POD UID IMAGE CGROUP: one pod with the container `app`, as a kubelet asks for it by the CRI
(k8s.io/cri-api, runtime/v1/api.proto); prints the ids of the sandbox and of the container. stop SOCKET SANDBOX."""

import sys

import grpc


def field(number, value):
    """One field of a protobuf message: a number, a text, or a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def message(*fields):
    return b"".join(field(number, value) for number, value in fields)


def call(channel, name, *fields):
    """Calls a method; the first text of its answer."""
    method = channel.unary_unary("/runtime.v1.RuntimeService/" + name)
    answer = method(message(*fields), timeout=20)
    return answer[2 : 2 + answer[1]].decode() if answer else ""


def start(channel, namespace, pod, uid, image, cgroup):
    node = 2  # the host's network: a pod's own would need a plugin
    labels = {
        "io.kubernetes.pod.name": pod,
        "io.kubernetes.pod.namespace": namespace,
        "io.kubernetes.pod.uid": uid,
    }
    sandbox = message(
        (1, message((1, pod), (2, uid), (3, namespace))),
        (3, "/tmp"),
        *((6, message((1, key), (2, value))) for key, value in labels.items()),
        (8, message((1, cgroup), (2, message((1, message((1, node))))))),
    )
    sandbox_id = call(channel, "RunPodSandbox", (1, sandbox))
    container = message((1, message((1, "app"))), (2, message((1, image))))
    container_id = call(
        channel, "CreateContainer", (1, sandbox_id), (2, container), (3, sandbox)
    )
    call(channel, "StartContainer", (1, container_id))
    print(sandbox_id, container_id)


def stop(channel, sandbox):
    call(channel, "StopPodSandbox", (1, sandbox))
    call(channel, "RemovePodSandbox", (1, sandbox))


what, socket, *words = sys.argv[1:]
with grpc.insecure_channel("unix://" + socket) as channel:
    {"start": start, "stop": stop}[what](channel, *words)
