"""Keys and tokens as PyJWT makes them, as JSON on standard output. The keys are
then served over HTTPS, by a certificate that stands in ca.pem of the folder that
is named, until standard input ends."""

import datetime
import http.server
import ipaddress
import json
import pathlib
import ssl
import sys
import threading
import time

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "https://id.example"

rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
keys = {
    "rsa": (rsa_key, RSAAlgorithm),
    "p256": (ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "p384": (ec.generate_private_key(ec.SECP384R1()), ECAlgorithm),
    "ed": (ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm),
}
secret = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
by = {
    **{alg: "rsa" for alg in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")},
    "ES256": "p256",
    "ES384": "p384",
    "EdDSA": "ed",
}

jwks = []
for kid, (key, kind) in keys.items():
    jwks.append({**json.loads(kind.to_jwk(key.public_key())), "kid": kid})
jwks.append({**json.loads(HMACAlgorithm.to_jwk(secret)), "kid": "secret"})

now = int(time.time())


def token(alg, **more):
    claims = {"iss": ISSUER, "sub": f"by-{alg}", "aud": ["orders", "x"], "scope": "a b", "iat": now, "exp": now + 600}
    claims.update(more)
    if alg.startswith("HS"):
        return jwt.encode(claims, secret, algorithm=alg, headers={"kid": "secret"})
    return jwt.encode(claims, keys[by[alg]][0], algorithm=alg, headers={"kid": by[alg]})


good = {alg: token(alg) for alg in [*by, "HS256", "HS384", "HS512"]}
bad = {
    "none": jwt.encode({"iss": ISSUER, "exp": now + 600}, None, algorithm="none"),
    "expired": token("RS256", exp=now - 100),
    "early": token("ES256", nbf=now + 100),
    "audience": token("EdDSA", aud="other"),
    "issuer": token("PS256", iss="https://evil.example"),
}


def certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "id.example")])
    since = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(since)
        .not_valid_after(since + datetime.timedelta(days=1))
        .add_extension(host, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    (folder / "ca.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))


class Keys(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        # A shared secret is nothing that anybody may fetch.
        body = json.dumps({"keys": jwks[:-1]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


folder = pathlib.Path(sys.argv[1])
certificate(folder)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
port = server.server_address[1]
print(json.dumps({"jwks": {"keys": jwks}, "good": good, "bad": bad, "port": port}), flush=True)
sys.stdin.read()
