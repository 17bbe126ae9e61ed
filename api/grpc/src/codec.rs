//! Messages to bytes and back: prost's codec, which makes room for a whole message before it writes
//! the first of its bytes.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

/// The codec of every service here: sends `T`, receives `U`.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Codec(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Roomy<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Roomy<T> {
        Roomy(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::default().decoder()
    }
}

/// Encodes messages. Without the room, a list of 3 MB is copied again and again while its buffer
/// grows, into memory that is new each time.
#[derive(Debug)]
pub struct Roomy<T>(PhantomData<T>);

impl<T: Message> Encoder for Roomy<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.encoded_len());
        message.encode_raw(buffer);
        Ok(())
    }
}
