from .hooks import EDEHook

__all__ = ['EDEHook']
