"""The words on the wire: request and response types of `/v1`, shared by the rooms' routes and the client.

Imports nothing of BMI, so that the client stays small.
"""
