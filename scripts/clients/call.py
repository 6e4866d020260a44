#!/usr/bin/env python3
"""Calls the agent's gRPC API from Python, without generated code: the agent describes itself by reflection.

It takes the flags of grpcurl that one needs for it, so that commands can be carried over either way:

    call.py -cacert agents-ca.crt -cert ci.crt -key ci.key 10.0.0.1:9443 list zdd.v1.Control
    call.py -cacert agents-ca.crt -cert ci.crt -key ci.key -d '{"service": "web"}' 10.0.0.1:9443 zdd.v1.Control/Rollback
    call.py -plaintext -authority localhost -unix /run/zdd/zdd.sock zdd.v1.Control/GetStatus

Answers are JSON on standard output, one after the other for a stream, as the proto file names the fields. An error of the agent goes to
standard error, and the exit status is 64 plus its gRPC code (grpcurl's rule). Needs the packages grpcio and grpcio-reflection.
"""

import argparse
import sys

try:
    import grpc
    from google.protobuf import json_format
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
except ImportError as missing:
    sys.exit(f"error: {missing}\nhelp: pip install grpcio grpcio-reflection, best in an environment of its own (python3 -m venv)")


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("-cacert", metavar="FILE", help="the authority of the agent's certificate")
    parser.add_argument("-cert", metavar="FILE", help="your certificate")
    parser.add_argument("-key", metavar="FILE", help="its private key")
    parser.add_argument("-plaintext", action="store_true", help="without TLS: the unix socket only")
    parser.add_argument("-unix", action="store_true", help="the address is the path of a socket")
    parser.add_argument("-authority", metavar="NAME", default="localhost", help="with -unix: the name of the other side")
    parser.add_argument("-d", metavar="JSON", default="{}", help="the request")
    parser.add_argument("-max-time", metavar="SECONDS", type=float, help="how long a call may take")
    parser.add_argument("address", help="HOST:PORT, or with -unix a path")
    parser.add_argument("what", help="PACKAGE.SERVICE/METHOD, or `list`")
    parser.add_argument("service", nargs="?", help="with `list`: the service whose methods are wanted")
    return parser.parse_args()


def channel_to(args):
    address = f"unix:{args.address}" if args.unix else args.address
    if args.plaintext:
        if not args.unix:
            sys.exit("error: over TCP the agent speaks TLS only\nhelp: -cacert, -cert and -key")
        # The library would make the socket's path the authority, which no HTTP/2 server in Rust takes for one.
        return grpc.insecure_channel(address, options=[("grpc.default_authority", args.authority)])
    files = (args.cacert, args.key, args.cert)
    if None in files:
        sys.exit("error: over TCP both sides show a certificate\nhelp: -cacert, -cert and -key; on the agent's host -plaintext -unix PATH")
    ca, key, cert = (open(path, "rb").read() for path in files)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert))


def main():
    args = arguments()
    channel = channel_to(args)
    described = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(described)
    if args.what == "list":
        if args.service:
            methods = pool.FindServiceByName(args.service).methods
            names = [method.full_name for method in methods]
        else:
            names = described.get_services()
        print("\n".join(sorted(names)))
        return
    service, _, name = args.what.rpartition("/")
    try:
        method = pool.FindServiceByName(service).methods_by_name[name]
    except KeyError:
        sys.exit(f"error: the agent has no {args.what}\nhelp: write PACKAGE.SERVICE/METHOD; `list zdd.v1.Control` shows them")
    try:
        request = json_format.Parse(args.d, GetMessageClass(method.input_type)())
    except json_format.ParseError as wrong:
        sys.exit(f"error: {args.d} is no {method.input_type.name}: {wrong}")
    answer = GetMessageClass(method.output_type).FromString
    ways = {False: channel.unary_unary, True: channel.unary_stream}
    call = ways[method.server_streaming](f"/{service}/{name}", type(request).SerializeToString, answer)
    answers = call(request, timeout=args.max_time)
    for one in answers if method.server_streaming else [answers]:
        # Zero is a value too: whoever reads a share of 0 must find it.
        print(json_format.MessageToJson(one, always_print_fields_with_no_presence=True), flush=True)


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as refused:
        print(f"error: {refused.code().name}: {refused.details()}", file=sys.stderr)
        sys.exit(64 + refused.code().value[0])
    except KeyboardInterrupt:
        pass
